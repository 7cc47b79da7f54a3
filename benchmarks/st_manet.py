"""ST-MANet beside a transcription of its equations, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/st_manet.py [--device cuda] [--batch 1] [--repeats 5] [--parts]

Clips of 32 × 112 × 112, float32, the same weights: the forward pass in evaluation, and a training step (both losses,
gradients of everything). The transcription concatenates Z̄, convolves it twice in groups, mixes Z and the branch
apart, convolves with ε before it pools, permutes, and calls the cosine twelve times; its trunk has
the same layers with channels first. Scores, losses and gradients of the two are compared at the start. ``--parts`` also
times the trunk alone. Asserts nothing about time.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from side_by_side import compare, environment, options_of, smoke_option
from torch import Tensor, nn

from gesta.layers.pointwise import Pointwise
from gesta.models import create_model
from gesta.models.r3d import R3D
from gesta.models.st_manet import Aggregation, STMANet
from gesta.plugins.st_manet import SDALayer, TDALayer

Losses = dict[str, Tensor]


def transcription(model: STMANet, video: Tensor) -> tuple[Tensor, Losses]:
    """Scores and, in training, losses, from the weights of an ST-MANet with default switches."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(video))))
    branch = model.stem_branch(x)
    pooled, temporal, spatial = [], [], []
    for stage in model.stages:
        for bottleneck in model.bottlenecks(stage - 1):
            x = super(type(bottleneck), bottleneck).forward(x)  # type: ignore[misc]
        block = model.get_submodule(f"aggregation{stage}")
        assert isinstance(block, Aggregation) and block.tda is not None and block.sda is not None
        z_t, branch, a_t = temporal_aggregation(block.tda, x, branch, last=stage == 5)
        z_s, a_s = spatial_aggregation(block.sda, x)
        size = x.shape[3:]
        x = x + z_t + z_s + branch if stage == 5 else x + z_t + z_s
        pooled.append(F.adaptive_avg_pool3d(x, 1).flatten(1))
        temporal.append(a_t)
        spatial.append((a_s, size))
    scores: Tensor = model.classifier(torch.cat(pooled, 1))
    if not model.training:
        return scores, {}
    pooled_t = [F.adaptive_avg_pool2d(a[:, None], x.shape[2]).flatten(1) for a in temporal]
    pooled_s = []
    for a, size in spatial:
        keys = F.adaptive_avg_pool2d(a.reshape(len(a), -1, *size), x.shape[3:]).flatten(2)
        queries = keys.permute(0, 2, 1).reshape(len(a), -1, *size)
        pooled_s.append(F.adaptive_avg_pool2d(queries, x.shape[3:]).flatten(2).permute(0, 2, 1).flatten(1))
    losses = {}
    for name, weight, rows in (("diversity_spatial", 0.01, pooled_s), ("diversity_temporal", 0.001, pooled_t)):
        cosines = [F.cosine_similarity(a, b).mean() for a, b in itertools.permutations(rows, 2)]
        losses[name] = weight * torch.stack(cosines).sum()
    return scores, losses


def temporal_aggregation(tda: TDALayer, z: Tensor, p: Tensor, last: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Z_t, the next branch and A_t (Eqs. 1 to 3)."""
    batch, _, frames, height, width = z.shape
    bar = torch.cat([z, p], 1)

    def rows(x: Tensor) -> Tensor:
        return x.permute(0, 2, 1, 3, 4).reshape(batch, frames, -1)

    def back(x: Tensor) -> Tensor:
        return x.reshape(batch, frames, -1, height, width).permute(0, 2, 1, 3, 4)

    q, k = rows(tda.phi(bar)), rows(tda.omega(bar))
    attention = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, -1)
    branch = tda.epsilon(back(attention @ rows(p)))
    if not last:
        branch = F.avg_pool3d(branch, 2, 2, ceil_mode=True, count_include_pad=False)
    return z + tda.out(back(attention @ rows(z))), branch, attention


def spatial_aggregation(sda: SDALayer, z: Tensor) -> tuple[Tensor, Tensor]:
    """Z_s and A_s (Eqs. 4 and 5)."""
    batch, _, frames, height, width = z.shape

    def rows(x: Tensor) -> Tensor:
        return x.permute(0, 3, 4, 1, 2).reshape(batch, height * width, -1)

    q, k, v = rows(sda.alpha(z)), rows(sda.beta(z)), rows(sda.eta(z))
    attention = torch.softmax(q @ k.transpose(1, 2) / q.shape[2] ** 0.5, -1)
    mixed = attention @ v
    return sda.pi(mixed.reshape(batch, height, width, -1, frames).permute(0, 3, 4, 1, 2)), attention


def channels_first(model: nn.Module) -> nn.Module:
    """A copy whose 1 × 1 × 1 convolutions are torch's."""
    plain = copy.deepcopy(model)
    for parent in list(plain.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Pointwise):
                bias = child.bias is not None
                conv = nn.Conv3d(child.in_channels, child.out_channels, 1, child.stride, bias=bias)
                conv.weight, conv.bias = child.weight, child.bias
                setattr(parent, name, conv)
    return plain


def ours(model: STMANet, video: Tensor) -> tuple[Tensor, Losses]:
    return model(video, with_losses=True)


Way = Callable[[STMANet, Tensor], tuple[Tensor, Losses]]


def step(way: Way, model: STMANet, video: Tensor) -> list[Tensor]:
    """Gradients of the whole loss."""
    scores, losses = way(model, video)
    target = torch.arange(len(video), device=video.device)
    loss = F.cross_entropy(scores, target) + sum(losses.values())
    return list(torch.autograd.grad(loss, list(model.parameters())))


def check(model: STMANet, plain: STMANet, video: Tensor) -> None:
    """Print the differences of the two in float64."""
    video, ways = (
        video.double(),
        ((ours, copy.deepcopy(model).double()), (transcription, copy.deepcopy(plain).double())),
    )
    with torch.no_grad():
        a, b = (way(net.eval(), video)[0] for way, net in ways)
    print(f"largest difference of the scores {(a - b).abs().max():.1e} of {b.abs().max():.2f}")
    losses = [{name: value.item() for name, value in way(net.train(), video)[1].items()} for way, net in ways]
    print(f"losses {losses[0]} and {losses[1]}")
    gradients = [step(way, net, video) for way, net in ways]
    difference, length = (
        torch.cat([t.flatten() for t in tensors]).norm()
        for tensors in ([x - y for x, y in zip(*gradients)], gradients[1])
    )
    print(f"gradients differ by {difference / length:.1e} of their norm")


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=5)
    smoke_option(parser)
    parser.add_argument("--parts", action="store_true", help="time the trunk alone as well")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(environment(options))
    torch.manual_seed(0)
    model = create_model("st_manet_50", classes=101).to(device)
    assert isinstance(model, STMANet)
    video = torch.randn(options.batch, 3, 32, *(2 * (64 if options.smoke else 112,)), device=device)
    plain = channels_first(model)
    assert isinstance(plain, STMANet)
    check(model, plain, video[..., :64, :64])  # small, since float64 is slow
    trunk = create_model("r3d_50", classes=101).to(device)

    trunk_plain = channels_first(trunk)
    assert isinstance(trunk, R3D) and isinstance(trunk_plain, R3D)

    def trunk_first(x: Tensor) -> Tensor:
        net = trunk_plain
        x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
        for block in net.blocks:
            x = block(x)
        scores = net.classifier(net.pool(x))
        assert isinstance(scores, Tensor)
        return scores

    for net in (model, plain, trunk, trunk_plain):
        net.eval()
    with torch.no_grad():
        ways: dict[str, Callable[[], object]] = {
            "ours": lambda: ours(model, video),
            "transcription": lambda: transcription(plain, video),
        }
        if options.parts:
            ways |= {
                "trunk alone": lambda: trunk(video),
                "trunk alone, channels first": lambda: trunk_first(video),
            }
        compare("forward", ways, device, options.repeats)
    for net in (model, plain, trunk, trunk_plain):
        net.train()
    ways = {
        "ours": lambda: step(ours, model, video),
        "transcription": lambda: step(transcription, plain, video),
    }
    if options.parts:
        ways |= {
            "trunk alone": lambda: torch.autograd.grad(trunk(video).sum(), list(trunk.parameters())),
            "trunk alone, channels first": lambda: torch.autograd.grad(
                trunk_first(video).sum(), list(trunk_plain.parameters())
            ),
        }
    compare("training step", ways, device, options.repeats)


if __name__ == "__main__":
    main()

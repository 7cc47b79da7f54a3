"""Our MViTv2-S against torchvision's with the same weights, in one run.

    python benchmarks/mvit.py [--device cuda] [--batch 1] [--dtype bfloat16] [--repeats 5] [--compile]

Prints the largest difference of the scores, the time of a forward pass and of a training step (forward and backward),
and the ratios; asserts nothing about time.
"""

from __future__ import annotations

import torch
from side_by_side import Work, compare, dtype_option, environment, options_of
from torch import nn
from torchvision.models.video import mvit_v2_s

from gesta.checkpoint.weights import import_weights
from gesta.models import create_model


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=5)
    dtype_option(parser)
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)

    torch.manual_seed(0)
    reference = mvit_v2_s(weights=None, dropout=0.0, stochastic_depth_prob=0.0)
    ours = create_model("mvitv2_s", cls_token=True)
    import_weights(ours, reference.state_dict(), min_matched=1.0)
    models = {"ours": ours.to(device), "torchvision": reference.to(device)}
    video = torch.randn(options.batch, 3, 16, 224, 224, device=device)
    with torch.inference_mode():
        scores = [model.eval()(video) for model in models.values()]
    print(f"largest difference of the scores (float32): {(scores[0] - scores[1]).abs().max():.1e}")
    calls = {name: torch.compile(model) if options.compile else model for name, model in models.items()}

    def forward(call: nn.Module) -> Work:
        def run() -> None:
            with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                call(video)

        return run

    def step(call: nn.Module) -> Work:
        def run() -> None:
            call.zero_grad()
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = call(video).float().square().mean()
            loss.backward()

        return run

    print(f"{environment(options)}{', compiled' if options.compile else ''}")
    compare("forward", {name: forward(call) for name, call in calls.items()}, device, options.repeats)
    for model in models.values():
        model.train()
    compare("training step", {name: step(call) for name, call in calls.items()}, device, options.repeats)


if __name__ == "__main__":
    main()

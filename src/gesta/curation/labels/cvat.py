"""CVAT 1.1, "for video" and "for images": tracks and tags of frames.

From its documentation of the XML and the code of its export: a track has a shape for every frame (or key frame) of the
source video, counted from 0; it is seen until a shape says ``outside="1"``. "For images" lists the frames of a video,
named ``frame_000012``, with tags and shapes. Tasks that take every n-th frame say ``step=n`` in ``frame_filter``, and
an annotated frame stands for n of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from gesta.curation.labels.export import Export
from gesta.errors import GestaError

_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")


class _Task(NamedTuple):
    video: str
    step: int  # of frames


def parse_xml(text: str, path: str) -> Element:
    """The root of an XML document of others.

    A document type is refused where it begins: it alone can define entities, which may grow without limit or name
    other files, and no labelling tool writes one.

    Raises:
        GestaError: no XML, or one with a document type.
    """

    def refuse(*_: object) -> NoReturn:
        raise GestaError(f"{path}: has a document type (DOCTYPE), which CVAT does not write; export again")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"), True)
    except expat.ExpatError as error:
        raise GestaError(f"{path}: is not valid XML ({error}); export again") from None
    return builder.close()


def read(export: Export, text: str) -> None:
    """Segments of tracks, or of tags of neighbouring frames."""
    root = parse_xml(text, export.path)
    if root.tag != "annotations":
        export.fail(f"its XML holds {root.tag}, not annotations", "export from CVAT as CVAT for video 1.1")
    tasks = _tasks(export, root)
    frames: dict[tuple[str, str], list[int]] = defaultdict(list)  # of tags, by video and label
    steps: dict[str, int] = {}
    for element in root:
        if element.tag == "track":
            task = _task_of(export, element, tasks)
            for start, end in _joined(_track_spans(export, element, task.step)):
                export.add(task.video, _attribute(export, element, "label"), start, end, "frames")
        elif element.tag == "image":
            task = _task_of(export, element, tasks)
            steps[task.video] = task.step
            for label, frame in _frame_tags(export, element):
                frames[task.video, label].append(frame)
        elif element.tag not in ("version", "meta"):
            export.other(element.tag, f"elements {element.tag!r}")
    for (video, label), numbers in frames.items():
        for start, end in _joined((frame, frame + steps[video]) for frame in numbers):
            export.add(video, label, start, end, "frames")


def _tasks(export: Export, root: Element) -> dict[str, _Task]:
    """The tasks of an export by their numbers; a job is taken for its task.

    The source of a task is a file name without folders. Where several tasks have one, their names are taken for the
    folders, by which the videos are told apart where they have these.
    """
    elements = [*root.iterfind("./meta//task"), *root.iterfind("./meta/job")]
    if not elements:
        export.fail("names no task in its meta, hence no video", "export again from CVAT")
    named = [
        ((element.findtext("name") or "").strip(), (element.findtext("source") or "").strip()) for element in elements
    ]
    of_source = Counter(source for _, source in named if source)
    tasks: dict[str, _Task] = {}
    for element, (name, source) in zip(elements, named):
        video = source or name
        if of_source[source] > 1:
            video = name if name.endswith(f"/{source}") else f"{name}/{source}"
        if video in export.videos:
            export.fail(
                f"has two tasks {name!r} of {source or name!r}",
                "name each task after the folder of its video, or export them one by one",
            )
        step = re.search(r"step\s*=\s*(\d+)", element.findtext("frame_filter") or "")
        tasks[element.findtext("id") or ""] = _Task(video, max(1, int(step[1])) if step else 1)
        export.videos.setdefault(video)
    return tasks


def _task_of(export: Export, element: Element, tasks: dict[str, _Task]) -> _Task:
    number = element.get("task_id", next(iter(tasks)) if len(tasks) == 1 else "")
    if number not in tasks:
        export.fail(f"a {element.tag} is of the task {number!r}, which its meta does not name", "export again")
    return tasks[number]


def _attribute(export: Export, element: Element, name: str) -> str:
    value = element.get(name)
    if value is None:
        export.fail(f"a {element.tag} has no {name}", "export again from CVAT")
    return value


def _frame(export: Export, text: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text):
        export.fail(f"{text!r} is no number of a frame", "export again from CVAT")
    return int(text)


def _track_spans(export: Export, track: Element, step: int) -> Iterator[tuple[int, int]]:
    """First frame and one past the last of each shape that is seen; a shape lasts until the next one."""
    shapes = {}
    for shape in track:
        if shape.tag not in _SHAPES:
            export.other(shape.tag, f"elements {shape.tag!r} of tracks")
            continue
        _other_attributes(export, shape)
        outside = shape.get("outside") == "1"
        shapes[_frame(export, _attribute(export, shape, "frame"))] = outside
    export.left_out["places in the picture (the time of a track is used alone)"] += len(shapes)
    frames = sorted(shapes)
    for frame, following in zip(frames, [*frames[1:], frames[-1] + step] if frames else []):
        if not shapes[frame]:
            yield frame, following


def _frame_tags(export: Export, image: Element) -> Iterator[tuple[str, int]]:
    """Labels of a frame, and its number."""
    name = _attribute(export, image, "name")
    number = re.search(r"frame_(\d{1,9})(\.\w+)?$", name)
    if not number:
        export.fail(f"lists the picture {name!r}, which is no frame of a video", "import from a task of a video")
    for element in image:
        if element.tag == "tag":
            _other_attributes(export, element)
            yield _attribute(export, element, "label"), int(number[1])
        else:
            export.other(element.tag, f"shapes {element.tag!r} of single frames")


def _other_attributes(export: Export, element: Element) -> None:
    for attribute in element.iter("attribute"):
        name = attribute.get("name", "attribute")
        if (attribute.text or "").strip():
            export.other(name, f"attributes {name!r}")


def _joined(spans: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Spans that touch or overlap as one, in order."""
    current: tuple[int, int] | None = None
    for start, end in sorted(spans):
        if current and start <= current[1]:
            current = current[0], max(current[1], end)
            continue
        if current:
            yield current
        current = start, end
    if current:
        yield current

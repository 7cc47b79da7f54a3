"""VIA 3 (VGG): projects with temporal segments, in seconds.

From the format's definition in its source: ``metadata`` of a view has ``z``, the times, ``xy``, a region of the
picture, and ``av``, the value of each attribute. Two times and no region are a segment, no time and no region the whole
file. Values of a list of options are keys into it.
"""

from __future__ import annotations

from typing import Any

from gesta.curation.labels.export import Export

_CHECKBOX = 2  # VIA's number of the kind of attribute that takes several options


def read(export: Export, project: Any) -> None:
    """Segments of a project; the class is the one attribute that has a value."""
    project = export.mapping(project, "the whole file")
    files, views = (export.mapping(project.get(name), name) for name in ("file", "view"))
    attributes = export.mapping(project.get("attribute"), "attribute")
    names = {number: _video(export, number, view, files) for number, view in views.items()}
    for number, item in export.mapping(project.get("metadata"), "metadata").items():
        where = f"metadata {number}"
        item = export.mapping(item, where)
        export.known(item, frozenset({"vid", "flg", "z", "xy", "av"}), "metadata")
        if item.get("flg"):
            export.other("flg", "flags of metadata (flg)")
        times = item.get("z") or []
        if item.get("xy"):
            export.other("regions", "regions of the picture (xy)")
            continue
        if isinstance(times, list) and len(times) == 1:
            export.other("points", "points in time (one z)")
            continue
        video = names.get(str(item.get("vid")))
        if video is None:
            export.fail(f"{where} is of the view {item.get('vid')!r}, which is not there", "save the project again")
        labels = _labels(export, export.mapping(item.get("av"), f"av of {where}"), attributes, where)
        start, end = export.span(times, f"z of {where}") if times else (None, None)
        if start is None or end is None or not export.is_empty(start, end):
            for label in labels:
                export.add(video, label, start, end)


def _video(export: Export, number: str, view: Any, files: dict[str, Any]) -> str:
    keys = export.mapping(view, f"view {number}").get("fid_list")
    if not isinstance(keys, list) or len(keys) != 1:
        export.fail(f"view {number} shows {len(keys or [])} files", "annotate one video at a time")
    file = export.mapping(files.get(str(keys[0])), f"file {keys[0]}")
    name, source = file.get("fname") or file.get("src"), file.get("src")
    if not isinstance(name, str):
        export.fail(f"file {keys[0]} has no name", "save the project again")
    namesakes = [other for other in files.values() if isinstance(other, dict) and other.get("fname") == name]
    if len(namesakes) > 1:  # of different folders, which only their sources tell
        if not (isinstance(source, str) and source):
            export.fail(f"holds {len(namesakes)} files called {name!r}", "import from one project for each of them")
        name = source
    export.videos.setdefault(name)
    return name


def _labels(export: Export, values: dict[str, Any], attributes: dict[str, Any], where: str) -> list[str]:
    """The classes of a segment: the value of the only attribute that has one, but for those that are left out."""
    given = {}
    for number, value in values.items():
        attribute = export.mapping(attributes.get(number), f"attribute {number}")
        name = str(attribute.get("aname") or number)
        if value not in ("", None) and name not in export.skip:
            given[name] = attribute, value
        elif value not in ("", None):
            export.other(name, f"values of the attribute {name!r}")
    if len(given) != 1:
        wrong = f"has values of {len(given)} attributes ({', '.join(given)})" if given else "has no value"
        export.fail(f"{where} {wrong}", "give each segment one class, or leave others out with --skip NAME")
    ((attribute, value),) = given.values()
    options = attribute.get("options") or {}
    keys = str(value).split(",") if attribute.get("type") == _CHECKBOX else [str(value)]
    return [str(options.get(key, key)) for key in keys]

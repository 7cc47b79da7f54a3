"""Trained models become files of other runtimes: ONNX, and programs of ``torch.export``.

- ``network.py``: the model with the inputs and outputs of a file
- ``write.py``: files are written, and count once they give the model's scores on real clips
- ``onnx_graph.py``: programs of torch become ONNX
- ``assignment.py``: one-to-one matches in ONNX's operators, for alignments
- ``quantise.py``: 8-bit files, and what they cost in accuracy
- ``verification.py``: the table of ``docs/export.md``

:mod:`gesta.checkpoint.exported` reads such files.
"""

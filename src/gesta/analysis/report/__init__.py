"""The report of a run: one HTML page (``page``) with charts as SVG (``charts``) and strips of frames (``strips``)."""

"""A trained model behind HTTP, with limits: ``gesta serve``.

upload (``upload.py``) → decoding process (``decoding.py``, kept by ``pool.py``) → one thread with the model, which
scores the clips of several requests at once (``batching.py``) → the predictions of ``gesta predict``.

- ``limits.py``: what a request may cost, and :class:`~gesta.serve.limits.Refusal`, a status and a sentence
- ``service.py``: one upload to its predictions
- ``app.py``: addresses and pages; ``guard.py``: who may ask, what is logged and counted
- ``run.py``: the socket, signals and the stop
"""

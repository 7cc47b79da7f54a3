"""From a run or a model to figures and pages. Which file draws which figure of which paper:

====================== ===============================================================================================
file                   what it shows
====================== ===============================================================================================
``warp``               STAN, Fig. 2: the learnt transform on the raw clip
``matches``            ATA, Fig. 5: which patches of two neighbouring frames are matched
``response``           ATA, Figs 6 and 7: where feature maps respond, model by model
``mutual_information`` ATA, Table 4: information between neighbouring frames, unaligned and aligned (text)
``confusion``          MFST, Fig. 2.6, and RPE-STDT, Fig. 3.8: confusion matrices, by class or attribute, differences
``attention``          RPE-STDT, Fig. 3.1: what the class token attends to, and which frames are dropped
``rpe``                RPE-STDT, Figs 3.4 and 3.5: clusters of relative positions, by ratio and around a patch
``tsne``               RPE-STDT, Figs 3.6 and 3.7: t-SNE of the features before the classifier
``stages``             ST-MANet, Fig. 4: how well each stage separates the classes, by linear probes
``sweep_chart``        ST-MANet, Fig. 5: accuracy over the values of one field of a recipe
``complexity``         ST-MANet, Fig. 6: parameters, multiply-adds and latency against accuracy
``stage_attention``    ST-MANet's attention of each stage, and how similar the stages are (no figure in the paper)
``motion``             STD-Former's SMEM: what it adds at each position (no figure in the paper)
``reconstruction``     VideoMAE: a clip, what is seen of it, and what is rebuilt
``filters``            any model: the filters of its first layer
``report``             any run: one HTML page, with charts (SVG) and strips of frames
====================== ===============================================================================================

The files have one form: ``measure_NAME`` returns a frozen dataclass, which prints as text and has ``to_json``, and a
function ``draw_NAME`` makes a figure of it, which :func:`gesta.analysis.figures.write_figure` writes to a file.
``sources`` loads models, clips and features for all of them. A function that measures a model on a clip takes ``name``
(what to call the model), ``model`` (in evaluation mode) and ``clip``: square raw frames ``(T, 3, S, S)`` uint8 of any
size, which the model sees at its own size.
"""

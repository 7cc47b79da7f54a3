"""One-to-one matches in ONNX's operators: what :func:`gesta.alignment.assignment.assign` gives, by another solver.

Shortest augmenting paths with prices of the columns (R. Jonker and A. Volgenant, "A shortest augmenting path algorithm
for dense and sparse linear assignment problems", Computing 38, 1987), in float64, for all P problems of a batch.
Rows get their column one after the other. For each row, columns are reached in the order of their distance, by way of
columns that are taken and of the rows that have them, until a free one is reached; the rows on this path then change
their columns, and the prices of the columns that were reached before fall by what they were nearer. At all times each
matched row has its cheapest column at these prices, so the matches are optimal when the last row has one: the gap that
:func:`gesta.alignment.certificate.gap` certifies is that of rounding in float64.

A problem of N rows takes N searches of at most N steps, and a step computes on N numbers.
"""

from __future__ import annotations

from typing import Any

DOMAIN = "gesta"
"""Of the operator ``assign`` in ONNX files, which the file itself defines by standard operators."""

ASSIGN = """
<domain: "gesta", opset_import: ["" : 20]>
assign (similarity) => (matches)
{
   none = Constant <value_int: int = -1> ()
   nothing = Constant <value_int: int = 0> ()
   one = Constant <value_int: int = 1> ()
   zero = Constant <value: tensor = double {0.0}> ()
   far = Constant <value: tensor = double {1e300}> ()
   true = Constant <value: tensor = bool {1}> ()
   last = Constant <value_ints: ints = [-1]> ()
   first = Constant <value_ints: ints = [0]> ()
   single = Constant <value_ints: ints = [1]> ()
   shape = Shape (similarity)
   size = Gather (shape, last)
   rows = Squeeze (size)
   cube = Concat <axis: int = 0> (last, size, size)
   exact = Cast <to: int = 11> (similarity)
   profits = Reshape (exact, cube)
   cost = Neg (profits)
   count = Shape <start: int = 0, end: int = 1> (cost)
   by_column = Concat <axis: int = 0> (count, size)
   by_problem = Concat <axis: int = 0> (count, single)
   numbers = Range (nothing, rows, one)
   columns = Unsqueeze (numbers, first)
   prices0 = Expand (zero, by_column)
   column_of0 = Expand (none, by_column)
   row_of0 = Expand (none, by_column)
   prices, column_of, row_of = Loop (rows, true, prices0, column_of0, row_of0) <body: graph = next_row
      (int64 start, bool go, double[p,n] prices_old, int64[p,n] column_of_old, int64[p,n] row_of_old)
      => (bool go_on, double[p,n] prices_new, int64[p,n] column_of_new, int64[p,n] row_of_new)
   {
      go_on = Identity (go)
      row0 = Expand (start, by_problem)
      base0 = Expand (zero, by_problem)
      distance0 = Expand (far, by_column)
      reached0 = Expand (nothing, by_column)
      before0 = Expand (start, by_column)
      end0 = Expand (none, by_problem)
      row, base, distance, reached, before, end =
         Loop (rows, true, row0, base0, distance0, reached0, before0, end0) <body: graph = next_column
         (int64 step, bool search, int64[p,o] row_i, double[p,o] base_i, double[p,n] distance_i, int64[p,n] reached_i,
          int64[p,n] before_i, int64[p,o] end_i)
         => (bool searching, int64[p,o] row_o, double[p,o] base_o, double[p,n] distance_o, int64[p,n] reached_o,
             int64[p,n] before_o, int64[p,o] end_o)
      {
         going = Less (end_i, nothing)
         cost_of_row = GatherND <batch_dims: int = 1> (cost, row_i)
         reduced = Sub (cost_of_row, prices_old)
         own = GatherElements <axis: int = 1> (column_of_old, row_i)
         has_none = Less (own, nothing)
         own_column = Max (own, nothing)
         own_price = GatherElements <axis: int = 1> (reduced, own_column)
         level = Where (has_none, zero, own_price)
         above = Sub (reduced, level)
         length = Add (base_i, above)
         is_new = Equal (reached_i, nothing)
         is_open = And (is_new, going)
         is_less = Less (length, distance_i)
         is_nearer = And (is_less, is_open)
         distance_o = Where (is_nearer, length, distance_i)
         before_o = Where (is_nearer, row_i, before_i)
         candidates = Where (is_new, distance_o, far)
         column = ArgMin <axis: int = 1, keepdims: int = 1> (candidates)
         nearest = GatherElements <axis: int = 1> (candidates, column)
         base_o = Where (going, nearest, base_i)
         is_column = Equal (columns, column)
         is_reached = And (is_column, going)
         reached_o = Where (is_reached, one, reached_i)
         owner = GatherElements <axis: int = 1> (row_of_old, column)
         is_free = Less (owner, nothing)
         is_end = And (is_free, going)
         end_o = Where (is_end, column, end_i)
         owner_row = Max (owner, nothing)
         row_o = Where (is_free, row_i, owner_row)
         earliest = ReduceMin <keepdims: int = 0> (end_o)
         searching = Less (earliest, nothing)
      }>
      was_reached = Equal (reached, one)
      nearer_by = Sub (distance, base)
      fallen = Add (prices_old, nearer_by)
      prices_new = Where (was_reached, fallen, prices_old)
      active0 = Expand (one, by_problem)
      column_last, active, column_of_new, row_of_new =
         Loop (rows, true, end, active0, column_of_old, row_of_old) <body: graph = back
         (int64 step_back, bool go_back, int64[p,o] column_i, int64[p,o] active_i, int64[p,n] column_of_i,
          int64[p,n] row_of_i)
         => (bool changing, int64[p,o] column_o, int64[p,o] active_o, int64[p,n] column_of_o, int64[p,n] row_of_o)
      {
         is_active = Equal (active_i, one)
         new_row = GatherElements <axis: int = 1> (before, column_i)
         old_row = GatherElements <axis: int = 1> (row_of_i, column_i)
         old_column = GatherElements <axis: int = 1> (column_of_i, new_row)
         written_row = Where (is_active, new_row, old_row)
         written_column = Where (is_active, column_i, old_column)
         row_of_o = ScatterElements <axis: int = 1> (row_of_i, column_i, written_row)
         column_of_o = ScatterElements <axis: int = 1> (column_of_i, new_row, written_column)
         is_start = Equal (new_row, start)
         active_o = Where (is_start, nothing, active_i)
         is_on = Equal (active_o, one)
         on_column = Max (old_column, nothing)
         column_o = Where (is_on, on_column, column_i)
         most = ReduceMax <keepdims: int = 0> (active_o)
         changing = Greater (most, nothing)
      }>
   }>
   matches_shape = Slice (shape, first, last)
   matches = Reshape (column_of, matches_shape)
}
"""


def assign_in_onnx(similarity: Any, solver: str, tolerance: float) -> Any:
    """The call of the function in :data:`ASSIGN`, for torch's converter; solver and tolerance change nothing."""
    from onnx.defs import OpSchema  # optional dependencies
    from onnxscript.values import Op, Opset

    schema = OpSchema(
        "assign",
        DOMAIN,
        1,
        inputs=[OpSchema.FormalParameter("similarity", "T")],
        outputs=[OpSchema.FormalParameter("matches", "tensor(int64)")],
        type_constraints=[("T", ["tensor(float)", "tensor(double)"], "real numbers")],
    )
    return Op(Opset(DOMAIN, 1), "assign", schema)(similarity)


def add_functions(model: Any) -> None:
    """Define :data:`ASSIGN` in an ONNX model that calls it."""
    import onnx  # optional dependency

    model.functions.append(onnx.parser.parse_function(ASSIGN))
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))

"""Experiments as typed functions: one file per paper, each with its runs, its tables and its published numbers."""

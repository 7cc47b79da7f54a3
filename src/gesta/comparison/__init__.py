"""The papers' numbers beside ours: ``tables.py`` fills a paper's table from runs, ``ledger.py`` judges the costs."""

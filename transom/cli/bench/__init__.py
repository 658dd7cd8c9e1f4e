"""`transom bench`: how fast a model reads and writes on this machine, by depth, tier and cache strategy.

`plan.py` chooses what is measured, `measure.py` measures one point, `run.py` goes through all of them, `report.py` is
what came out as plain data; `table.py` and `plot.py` show it.
"""

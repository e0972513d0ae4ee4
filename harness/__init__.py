"""Studies: study, plan, execute, measure, analyse, gate, a folder each. Start at `session.py` and `pipeline.py`."""

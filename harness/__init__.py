"""Studies: study -> plan -> execute -> measure -> analyse -> gate, a folder each. Start reading at `pipeline.py`."""

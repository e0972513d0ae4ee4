"""Studies: design -> schedule -> execute -> measure -> analyse -> verdict -> gate. Start reading at `pipeline.py`."""

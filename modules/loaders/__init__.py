"""Ways to load a model: one package per back end, their list in `registry.py`, headers of model files in `model_info.py`."""

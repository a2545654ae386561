"""The figures that the paper reports, printed beside ours. None: the figure is not known to us."""

# arXiv 2411.05928, Mistral-7B; percent
FIGURES = (
    {"benchmark": "QuALITY", "metric": "accuracy", "vanilla": 47.17, "retrieval": 50.14, "focused": 51.39},
    {"benchmark": "Qasper", "metric": "F1", "vanilla": 48.65, "retrieval": None, "focused": 59.62},
)

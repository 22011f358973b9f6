"""``python -m cluster run RECIPE`` is ``fleming run RECIPE``, for places where the console script is not installed."""

from cluster.cli import main

main()

"""What a run shows while it is live: the table of its metrics, dashboards, alerts, and the view in a terminal."""

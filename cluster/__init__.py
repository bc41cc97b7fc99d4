"""The same search on other machines: a Ray cluster on this one to try it, and jobs that are sent to any cluster."""

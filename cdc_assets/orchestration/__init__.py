"""The pipeline in Dagster, and the only place that imports it.

Everything here is a view: the warehouse's checkpoint decides where a run starts, and no run reads
what an earlier one reported. What needs a driver or Arrow is imported when a run executes, so
that loading the definitions stays cheap.
"""

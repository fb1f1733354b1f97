"""The record of runs: training logs to a spool in the run's folder, and from there events go to MLflow.

tracker.py         Tracker and TrackedRun, the interfaces that training and sweeps use; NoTracker
mlflow_tracker.py  MLflowTracker: starts runs and sweeps in MLflow
mlflow_run.py      MLflowRun: appends a run's events to its spool
spool.py           Spool: the events on the disk, and how far they have been delivered
delivery.py        Delivery: sends a spool's events to a store; BackgroundDelivery does so in a thread
store.py           MLflow stores: addresses, clients, checks
sync.py            delivers the events that runs left in their spools
experiment.py      Experiment: reads recorded runs
server.py          the server that shows a local store in a browser
monitor.py         reports progress to the terminal and to a TrackedRun
"""

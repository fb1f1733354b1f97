"""The record of runs: what training logs goes to a spool in the run's folder first, and from there to MLflow.

tracker.py         Tracker and TrackedRun, all that training and sweeps see; NoTracker
mlflow_tracker.py  MLflowTracker: starts runs and sweeps in MLflow; MLflowRun: appends what is logged to its spool
spool.py           Spool: the events on the disk, and up to where they have been delivered
delivery.py        Delivery: sends a spool's events to a store; BackgroundDelivery does so in a thread
store.py           MLflow stores: addresses, clients, checks
sync.py            delivers the spools that runs left behind
experiment.py      Experiment: reads recorded runs
server.py          the server that shows a local store in a browser
monitor.py         what training reports, to the terminal and to a TrackedRun
"""

"""From recorded runs to a report: options ranked over seeds, with intervals, figures and samples on one page."""

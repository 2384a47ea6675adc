"""Labels that a study gives its steps and its findings look for; no pandas, which studies import late."""

SEARCH, SHARED, TUNED, RATES = "search", "shared", "fine-tuned", "learning rates"
"""The stages of runs: finding tickets, training together, fine-tuning on each task, other learning rates and seeds."""
BUDGET, TUNING, OF_SEED = "equal budget", "tuned", "of_seed"
"""Stage and kind of dense trainings with other settings, and the label that says whose seed's budget they spend."""
MT_DNN, TICKET_SHARE = "MT-DNN", "Ticket-Share"
"""What `share` trains on all tasks: the dense model, and the one with tickets."""

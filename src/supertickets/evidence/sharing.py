"""What sharing tickets between tasks shows."""

MT_DNN, TICKET_SHARE = "MT-DNN", "Ticket-Share"
MODELS = (MT_DNN, TICKET_SHARE)

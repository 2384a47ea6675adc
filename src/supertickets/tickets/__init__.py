"""The subject: which heads and FFNs of an encoder stay, why, and how such choices combine."""

from supertickets.tickets.ticket import Ticket

__all__ = ["Ticket"]

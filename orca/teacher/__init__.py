"""Queries are asked of a teacher, and its answers become traces (section 3.1.3 of Orca)."""

from orca.teacher.settings import Endpoint, Prices, Teacher

__all__ = ["Endpoint", "Prices", "Teacher"]

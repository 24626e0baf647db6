"""Forms: an app's parameters, a sweep of them, an allocation; each with the line of code that does the same."""

from .form import AllocationForm, AppForm, SweepForm

__all__ = ["AllocationForm", "AppForm", "SweepForm"]

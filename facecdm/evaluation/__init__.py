"""Evaluation of identity similarity and prompt adherence: measures, intervals, a report."""

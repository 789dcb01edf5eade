"""The name under which warnings of nodes are sent to the page and kept in the history."""

WARNINGS = "facecdm_warnings"  # web/warnings.js reads the same name

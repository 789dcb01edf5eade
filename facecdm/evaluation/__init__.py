"""Does a method show the person, and still do what the prompt says? Measures, intervals, and a report."""

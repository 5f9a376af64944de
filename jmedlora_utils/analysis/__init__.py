"""From records to findings: claims and rules, paired comparisons, the exam card, errors, the metrics study. May import the rooms above."""

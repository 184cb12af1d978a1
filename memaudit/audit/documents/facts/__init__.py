"""What an annex tells of a report: facts, each with the field of report.json that holds it."""

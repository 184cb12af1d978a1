"""What is handed in or published of a report: an annex for an authority, a card for a page."""

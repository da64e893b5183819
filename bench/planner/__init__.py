"""`qlora plan` against the peak of real training steps: the demo, and shapes it was not made on."""

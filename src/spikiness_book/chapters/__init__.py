"""What each chapter measures and draws."""

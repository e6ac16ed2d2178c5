"""The chapter *robustness*."""

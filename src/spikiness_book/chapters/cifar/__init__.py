"""The chapter *cifar*."""

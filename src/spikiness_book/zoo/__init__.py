"""The trained models that chapters share."""

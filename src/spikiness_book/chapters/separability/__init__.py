"""The chapter *separability*."""

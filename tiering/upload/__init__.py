"""The way into the cold tier: which segment goes next, its proof, its object, its commit."""

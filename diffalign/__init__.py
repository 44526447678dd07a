"""diffalign: turns preferences into better diffusion models."""

__version__ = "0.1.0"

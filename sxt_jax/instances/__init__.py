"""Instances: gradient maps from labels, gradient tracking, and labels from both."""

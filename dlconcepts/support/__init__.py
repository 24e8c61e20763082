"""Helpers of the lessons: files, data, pictures, devices, random state, bitwise comparison."""

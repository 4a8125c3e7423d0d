"""Registered data sets as images with objects to click on."""

"""Detectors of the two papers: VanillaNet-13 as a backbone of RetinaNet and Mask R-CNN, ParNet-XL as one of YOLO.

Each is one network from image to detections of a fixed number: boxes, scores, labels, and how many of them count.
"""

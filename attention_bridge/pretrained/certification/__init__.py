"""Certificates of conversions of files, and the check of certificates of every kind."""

from attention_bridge.pretrained.certification.checking import check_certificate as check_certificate
from attention_bridge.pretrained.certification.conversion import certify_conversion as certify_conversion
from attention_bridge.pretrained.certification.conversion import prepare as prepare
from attention_bridge.pretrained.certification.recipe import Recipe as Recipe

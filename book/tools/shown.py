"""The experiments that README, pages, opening figure and package show: the one list of their names."""

HEADLINE = {  # the images they were trained on → experiment → the name of its row
    "turned digits": {
        "rotmnist/hybrid-c4": "**Hybrid over C4**",
        "rotmnist/gcnn-p4cnn": "Group CNN (P4CNN)",
        "attention/gevit": "GE-ViT over C4, window 5, stable positions",
        "rotmnist/vit": "Plain ViT",
        "post_hoc/rotated/none/mean_logits": "Plain ViT, mean of 16 views",
    },
    "a tenth of them": {
        "rotmnist/hybrid-c4-tenth": "**Hybrid over C4**",
        "rotmnist/vit-tenth": "Small plain ViT",
    },
    "upright digits": {
        "rotmnist_upright/hybrid-c4": "**Hybrid over C4**",
        "rotmnist_upright/vit": "Small plain ViT",
        "post_hoc/upright/none/mean_logits": "Small plain ViT, mean of 16 views",
    },
}
ROWS = {name: label for rows in HEADLINE.values() for name, label in rows.items()}

LIVE = {
    "upright": "rotmnist_upright/vit",
    "vit": "rotmnist/vit",
    "gcnn": "rotmnist/gcnn-p4cnn",
    "hybrid": "rotmnist/hybrid-c4",
}

TURNING = {  # name in the opening figure → experiments, of which the first with a checkpoint is drawn
    "ViT, upright": ("mnist/vit", "rotmnist_upright/vit"),
    "ViT, augmented": ("rotmnist/vit",),
    "GE-ViT": ("attention/gevit",),
    "hybrid": ("rotmnist/hybrid-c4",),
}

PACKAGED = {  # name for e2vit.load → experiment
    "gcnn-p4cnn": "rotmnist/gcnn-p4cnn",
    "hybrid-c4": "rotmnist/hybrid-c4",
    "hybrid-c4-upright": "rotmnist_upright/hybrid-c4",
    "vit": "rotmnist/vit",
    "vit-upright": "rotmnist_upright/vit",
}

"""MuJoCo tasks on tensors: MuJoCo Warp simulates all environments at once, in arrays that torch shares."""

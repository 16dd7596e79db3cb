"""The frames of contacts between planes and capsules, as MuJoCo has them."""

from typing import Any

import warp as wp

_PLANE, _CAPSULE = wp.constant(0), wp.constant(3)  # of mujoco.mjtGeom


def align_contact_frames(model: Any, data: Any) -> None:
    """Turn frames such that the first tangent is along the capsule.

    MuJoCo always does so; MuJoCo Warp takes a fixed direction if the capsule is steep. With a pyramidal
    friction cone, the forces depend on the direction.

    Args:
        model: A ``mujoco_warp.Model``.
        data: A ``mujoco_warp.Data`` that has just found its contacts.
    """
    contact = data.contact
    wp.launch(
        _align,
        dim=data.naconmax,
        inputs=[data.nacon, contact.geom, contact.worldid, model.geom_type, data.geom_xmat],
        outputs=[contact.frame],
    )


@wp.kernel(enable_backward=False)
def _align(
    nacon: wp.array(dtype=int),  # type: ignore[valid-type]
    geoms: wp.array(dtype=wp.vec2i),  # type: ignore[valid-type]
    worlds: wp.array(dtype=int),  # type: ignore[valid-type]
    geom_types: wp.array(dtype=int),  # type: ignore[valid-type]
    rotations: wp.array2d(dtype=wp.mat33),  # type: ignore[valid-type]
    frames: wp.array(dtype=wp.mat33),  # type: ignore[valid-type]
):
    index = wp.tid()
    if index >= nacon[0]:
        return
    plane, capsule = geoms[index][0], geoms[index][1]
    if geom_types[plane] != _PLANE or geom_types[capsule] != _CAPSULE:
        return
    rotation, frame = rotations[worlds[index], capsule], frames[index]
    normal = wp.vec3(frame[0, 0], frame[0, 1], frame[0, 2])
    axis = wp.vec3(rotation[0, 2], rotation[1, 2], rotation[2, 2])
    tangent = axis - normal * wp.dot(normal, axis)
    if wp.length(tangent) > 0.0:
        tangent = wp.normalize(tangent)
        other = wp.cross(normal, tangent)
        frames[index] = wp.mat33(
            normal[0], normal[1], normal[2],
            tangent[0], tangent[1], tangent[2],
            other[0], other[1], other[2],
        )  # fmt: skip

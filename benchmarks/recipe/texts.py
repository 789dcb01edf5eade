"""Sentences that change when the demo's adapter gets a location head: file → pairs of the old and the new text."""

FOUND: dict[str, tuple[tuple[str, str], ...]] = {
    "web/docs/FaceCDMLoadDemoAdapter.md": (
        (
            """\
**The adapter needs the location of the face**: *Extract Pose* of any portrait → `pose` of *Apply FaceCDM*. Without it
the picture does not show the person. The same pose also works with *Load FaceCDM Demo Pose ControlNet*.
""",
            """\
**The adapter finds the face by itself**: the person acts as soon as the location of the face is certain. To set the
location, connect *Extract Pose* of any portrait to `pose` of *Apply FaceCDM*; the identity similarity is then higher.
The same pose also works with *Load FaceCDM Demo Pose ControlNet*.
""",
        ),
        (
            "Is `pose` connected, and does its picture show a face?",
            "Connect `pose`, from a picture that shows a face, or try another seed.",
        ),
    ),
    "web/docs/FaceCDMLoadDemoAdapter/zh.md": (
        (
            """\
**请给出人脸位置**：把任意肖像的「提取姿态」连接到「应用 FaceCDM」的 `pose`。否则不会出现参考人物。同一姿态也可以连接到
「加载 FaceCDM 演示姿态 ControlNet」的控制图。
""",
            """\
**适配器会自己找到人脸**：人脸位置一旦确定，参考人物就开始起作用。要指定位置，请把任意肖像的「提取姿态」连接到
「应用 FaceCDM」的 `pose`，身份相似度也会更高。同一姿态也可以连接到「加载 FaceCDM 演示姿态 ControlNet」的控制图。
""",
        ),
        ("`pose` 连接了吗？姿态图像中有人脸吗？", "请连接 `pose`（图像中要有人脸），或换一个种子。"),
    ),
    "README.md": (
        (
            "and shows no identity without a face location (`pose`)",
            "and its identity similarity is lower without a face location (`pose`)",
        ),
    ),
    "README_zh.md": (("不提供人脸位置（“姿态”）时不体现身份", "不提供人脸位置（“姿态”）时身份相似度较低"),),
}

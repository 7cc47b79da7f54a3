"""A path becomes frames: video files, folders of images, members of tar files, cameras and URLs.

Start with these three:

- ``read.py``: chosen frames of a video (:func:`~gesta.video.read.read`), or all of them one by one (``stream``)
- ``probe.py``: what a video is: frames counted, size, rate, codec
- ``find.py``: all videos below a folder

What they are made of, from the bottom to the top:

- ``boundary.py``: whatever a decoder raises about a file becomes the error of that file alone
- ``archive.py``: where the bytes lie, in a file of their own or in a tar file
- ``deadline.py``: how long reading one file may take
- ``depth.py``: a depth picture as three channels
- ``flow.py``: optical flow: pictures of it, and how they are made
- ``modality.py``: which of these a stream shows
- ``picture.py``: one picture: limits of its size, scaling, cropping, conversion to RGB; the array a clip is read into
- ``images.py``: a folder of numbered images is a video
- ``container.py``: a video file as packets: opening, decoding packet by packet
- ``clock.py``: when frames are shown
- ``mp4.py``: the few boxes of an MP4 file that libav keeps to itself
- ``index.py``: what the packets tell without decoding: how many frames there are, where decoding may start
- ``decode.py``: chosen frames of a file, by decoding as few packets as give exactly the same pixels
- ``torchcodec.py``: the same frames through torchcodec, where it is installed
"""

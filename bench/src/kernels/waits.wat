;; Two functions that wait for a word that nobody changes, each until its time is over. The host is told of both
;; ends of a wait and takes the time there, which is the truth that the wall profile is compared with.
(module
  (import "bench" "memory" (memory 1 1 shared))
  (import "bench" "mark" (func $mark (param i32)))
  (func $first (param $ns i64)
    (call $mark (i32.const 0))
    (drop (memory.atomic.wait32 (i32.const 0) (i32.const 0) (local.get $ns)))
    (call $mark (i32.const 1)))
  (func $second (param $ns i64)
    (call $mark (i32.const 0))
    (drop (memory.atomic.wait32 (i32.const 64) (i32.const 0) (local.get $ns)))
    (call $mark (i32.const 2)))
  (func (export "run") (param $which i32) (param $ns i64)
    (if (local.get $which)
      (then (call $second (local.get $ns)))
      (else (call $first (local.get $ns))))))

;;; client.el --- A real client against the real server  -*- lexical-binding: t; -*-

;;; Commentary:

;; The model is small and random: what it says means nothing, but it has to stand where it says,
;; and what is applied has to be undone.

;;; Code:

(defvar critic-command (list (getenv "CRITIC") "lsp" "--model" (getenv "MODEL") "--threads" "1"))
(require 'critic-eglot)

(defun check (what condition &optional detail)
  "Fail with WHAT and DETAIL unless CONDITION."
  (unless condition
    (message "FAILED: %s %S" what detail)
    (kill-emacs 1))
  (message "ok: %s" what))

(defvar text "Títle 👍\n\n\tA 👩‍👧 naïve cat 日本語 sat;\tthe cat slept.\n🚀🚀 It it was good, \"quoted\" and \\ escaped.\n")

(write-region text nil "note.txt")
(setq eglot-sync-connect t
      eglot-confirm-server-initiated-edits nil)
(find-file "note.txt")
(text-mode)
(buffer-enable-undo)
(apply #'eglot (eglot--guess-contact))
(check "the server is attached" (eglot-current-server))
(flymake-mode 1)
(flymake-start)

(let* ((answer (critic-critique t))
       (findings (append (plist-get answer :findings) nil)))
  (check "there are findings" findings answer)
  (with-timeout (60 (check "diagnostics come" nil))
    (while (/= (length (flymake-diagnostics)) (length findings))
      (accept-process-output nil 0.05)))
  (dolist (finding findings)
    (check "a diagnostic stands under the words that it quotes"
           (cl-some (lambda (diagnostic)
                      (and (equal (plist-get finding :quote)
                                  (buffer-substring-no-properties (flymake-diagnostic-beg diagnostic)
                                                                  (flymake-diagnostic-end diagnostic)))
                           (string-match-p (regexp-quote (plist-get finding :message))
                                           (flymake-diagnostic-text diagnostic))))
                    (flymake-diagnostics))
           (list finding (flymake-diagnostics)))))

(let ((answer (critic-refine t)))
  (check "there is a refinement" (eq (plist-get answer :changed) t) answer)
  (undo-boundary)
  (check "it is applied" (eq (plist-get (critic-apply answer) :applied) t))
  (check "as it was said" (equal (buffer-string) (plist-get answer :refinement))
         (list (buffer-string) answer))
  (undo-boundary)
  (let ((last-command nil)) (undo))
  (check "undo takes it back" (equal (buffer-string) text) (buffer-string)))

(let ((answer (critic-refine t)))
  (goto-char (point-min))
  (insert "changed ")
  (check "a stale refinement is refused"
         (condition-case error (progn (critic-apply answer) nil)
           (jsonrpc-error (string-match-p "has changed" (format "%S" error))))))

(eglot-shutdown (eglot-current-server))
(check "the server ends" (not (eglot-current-server)))
;;; client.el ends here

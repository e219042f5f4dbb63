;;; critic-eglot.el --- Critiques by a model on your own machine  -*- lexical-binding: t; -*-

;; Version: 0.1.0
;; Package-Requires: ((emacs "26.3") (eglot "1.9"))
;; Keywords: tools, text

;;; Commentary:

;; Registers the server of critic with Eglot, and adds commands that ask it.  Findings
;; are shown by Flymake; M-x eglot-code-actions has the fixes.
;;
;;   (require 'critic-eglot)
;;   (add-hook 'markdown-mode-hook #'eglot-ensure)

;;; Code:

(require 'eglot)
(require 'cl-lib)

(defgroup critic nil
  "Critiques by a model on your own machine."
  :group 'tools)

(defcustom critic-command '("critic" "lsp")
  "The server: a program and its arguments."
  :type '(repeat string))

(defcustom critic-modes '(text-mode)
  "Modes, with those derived from them, in which Eglot starts critic.
A buffer has one server: add a programming mode only where critic is to take
the place of the one that you have there."
  :type '(repeat symbol))

(defcustom critic-timeout 600
  "Seconds that a command waits for its answer; \\[keyboard-quit] cancels it."
  :type 'number)

(defun critic-register ()
  "Tell Eglot which modes critic is for."
  (dolist (mode critic-modes)
    (setf (alist-get mode eglot-server-programs) critic-command)))

(defun critic--about (scope)
  "What a command with SCOPE is about."
  (let ((about (list :uri (plist-get (eglot--TextDocumentIdentifier) :uri) :scope scope)))
    (pcase scope
      ("selection"
       (append about (list :range (list :start (eglot--pos-to-lsp-position (region-beginning))
                                        :end (eglot--pos-to-lsp-position (region-end))))))
      ("function" (append about (list :position (eglot--pos-to-lsp-position))))
      (_ about))))

(defun critic--scope (whole)
  "The part that is meant: with WHOLE the buffer, or the region, or what is at point."
  (cond (whole "document") ((use-region-p) "selection") (t "function")))

(defun critic--execute (command argument)
  "Have the server do COMMAND with ARGUMENT, and return its answer."
  (let ((server (eglot--current-server-or-lose)))
    (eglot--signal-textDocument/didChange)
    (jsonrpc-request server :workspace/executeCommand
                     (list :command command :arguments (vector argument))
                     :timeout critic-timeout)))

;;;###autoload
(defun critic-critique (&optional whole)
  "Critique the region, or the function or paragraph at point; with WHOLE the buffer."
  (interactive "P")
  (let* ((answer (critic--execute "critic.critique" (critic--about (critic--scope whole))))
         (count (length (plist-get answer :findings))))
    (message (if (zerop count) "Nothing needs to change" "%d finding(s)") count)
    answer))

;;;###autoload
(defun critic-refine (&optional whole)
  "Write the region, or what is at point, anew; with WHOLE the buffer.
Shows the new text, and asks whether to take it."
  (interactive "P")
  (let ((answer (critic--execute "critic.refine" (critic--about (critic--scope whole)))))
    (cond ((not (eq (plist-get answer :changed) t)) (message "Nothing needs to change"))
          (noninteractive nil)
          (t (with-current-buffer (get-buffer-create "*critic*")
               (erase-buffer)
               (insert (plist-get answer :refinement))
               (display-buffer (current-buffer)))
             (when (y-or-n-p "Take this refinement? ") (critic-apply answer))))
    answer))

(defun critic-apply (answer)
  "Take the refinement in ANSWER; refused if the text has changed since."
  (let ((eglot-confirm-server-initiated-edits nil))
    (critic--execute "critic.applyRefinement"
                     (list :uri (plist-get answer :uri) :id (plist-get answer :id)))))

(critic-register)

(provide 'critic-eglot)
;;; critic-eglot.el ends here
